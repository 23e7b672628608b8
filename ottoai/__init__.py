"""OttoAI's backend: provider webhooks become calls, leads and live events, exactly once."""

__version__ = "0.1.0"
