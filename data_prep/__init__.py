"""From raw files to scene folders; ``format.md`` describes the result."""
