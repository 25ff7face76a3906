"""How many robots a broker, a GPU and a link carry."""
