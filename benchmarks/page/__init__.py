"""The result of a run for readers: JSON, docs/performance.md and its pictures. Pure, but for
`machine`, which says where it ran."""
