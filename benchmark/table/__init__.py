"""The whole table: its cells, how long they take, who runs them."""
