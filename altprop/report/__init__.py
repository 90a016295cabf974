"""From records to statistics, figures and one page.

`altprop.report.build.build` is the door. Nothing here imports torch or the harness: a report is built from records
alone, on any machine.
"""
