"""What the tests share: servers, faults, graphs, scenarios, views of the tables."""
