"""What a gateway costs: CPU time and memory of RoleMesh and its peers for the same work.

`python -m benchmarks` (or `make bench`) runs it; docs/performance.md is made by it. Commands of
their own are `benchmarks.peers` (installs the peers), `benchmarks.soak` (long runs),
`benchmarks.scaling` (a big cluster beside a small one) and `benchmarks.calls` (function calls per
request and event). Linux only: the figures come from the kernel's own accounting of the gateways'
processes.
"""
