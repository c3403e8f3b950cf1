"""What a gateway costs: CPU time and memory of RoleMesh and its peers for the same work.

`python -m benchmarks` (or `make bench`) runs it; docs/performance.md is made by it. Linux only: the
figures come from the kernel's own accounting of the gateways' processes.
"""
