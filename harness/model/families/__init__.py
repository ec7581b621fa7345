"""The shipped families of checkpoints, one file each, registered as ``dllm_bench.families``."""
