"""Real parts around a real gateway process: llama.cpp, the openai client, Prometheus."""
