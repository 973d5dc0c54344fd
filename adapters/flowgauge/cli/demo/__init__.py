"""The demonstration: a script of a line that drifts, played through the pipeline and told again as a report."""
