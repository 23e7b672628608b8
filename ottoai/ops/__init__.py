"""Watching the whole: figures of all processes, what they mean, alerts, history, probes. Runs in every API process."""
