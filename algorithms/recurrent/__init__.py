"""Credit assignment through time.

What is not here, and why: synthetic gradients (Jaderberg et al. 2017), a net that foretells what an error from beyond a
truncation would be. They learn their targets from the same truncated gradients whose horizon they are to widen, so that
on tasks of one distant target they are one more net to tune in front of `truncated_bptt`; the online rules here reach
as far without it.
"""
