"""Names, shapes and dtypes without data: nested keys, rules, plans; without torch."""
