"""Small experiments on which the command, the run and the report are tested."""
