"""lm-eval's side: the model class that it runs, log-likelihoods, its command line."""
