"""One scan a layer: what is asked (`problem`), who runs it (`choice`), and the operators that autograd sees."""
