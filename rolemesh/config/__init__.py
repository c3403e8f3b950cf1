"""Configuration: files and variables in, one frozen value out, or every problem at once."""
