"""`instrument(model)`: sites, rules, recorder and trace put together, and the checks before anything is explained."""
