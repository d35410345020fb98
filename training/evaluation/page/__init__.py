"""The page: one HTML file that shows a person what the files of a report say."""
