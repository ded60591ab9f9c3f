"""One script per figure of the paper, and the report that gathers them."""
