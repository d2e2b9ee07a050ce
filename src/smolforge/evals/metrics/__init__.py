"""How answers are compared with references: one metric a file, each a pure function or the running of a given tool."""
