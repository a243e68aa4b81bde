"""A serving application for large language models on Ray Serve and vLLM."""
