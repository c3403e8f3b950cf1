"""The node: keeps a machine's llama-servers alive, and serves their models to gateways."""
