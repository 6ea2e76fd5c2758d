"""One model on one machine behind HTTP."""
