"""Commands over stored runs: report, compare, trace, project."""
