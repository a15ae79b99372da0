"""What names the class of rows that nobody has labelled: prototypes, queries, soft labels, graph cuts."""
