"""Long runs: mixed traffic for half an hour, and thousands of streams for minutes. Everything of
theirs is in here; of the harness they use scripts, processes and gateways."""
