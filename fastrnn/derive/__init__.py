"""From a cell's step, one function in plain torch, to both passes: graphs, what is saved between them, source."""
