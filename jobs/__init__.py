"""What runs behind the API: the worker, beat, and the jobs themselves. Nothing in ottoai imports it."""
