"""The page: one HTML file that shows the files of a report to a person."""
