"""The tests. They mirror the tree; `blackbox` speaks to whole, real gateways."""
