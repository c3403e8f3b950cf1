"""The built-in llama-server, with the real llama.cpp."""
