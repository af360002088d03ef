"""The web page: what people see, ask, teach and set up; and the HTTP API that it is made of."""
