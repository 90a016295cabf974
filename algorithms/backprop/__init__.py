"""Gradient learners: credit by backpropagation, with autograd or by hand."""
