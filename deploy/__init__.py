"""Commands, reports, recipes and the demo."""
