"""`python -m rolemesh`."""

from rolemesh.cli import main

main()
