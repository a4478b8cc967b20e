"""`make demo-workloads`: a served example of every workload on real input, and one page of pictures and figures.

A workload is one file under `rows/` with a module value `ROW`; it is found by its name and nothing else is edited.
"""
