"""Release staging (models, tables, index, goldens, manifest) and the promotion gate."""
