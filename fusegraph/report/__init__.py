"""Reports: records of a plan as data, text and tables. They format and never decide."""
