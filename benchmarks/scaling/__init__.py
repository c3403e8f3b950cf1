"""What a request costs with one alias and one node, and with a thousand and five hundred."""
