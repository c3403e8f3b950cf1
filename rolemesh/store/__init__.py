"""What must outlive the process. First inhabitant: one JSON file."""
