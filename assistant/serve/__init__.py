"""Our models behind an OpenAI-compatible API."""
