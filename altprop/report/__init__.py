"""From records to statistics, figures and one page."""
