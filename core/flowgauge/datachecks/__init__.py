"""Guardrails: what is wrong with a data set, or with a gauge on it, before anybody relies on either."""
