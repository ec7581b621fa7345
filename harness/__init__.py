"""The judge: models, decoding, clock and audit, runs, records, statistics, command line. It names no
method.
"""

__version__ = "0.1.0"
