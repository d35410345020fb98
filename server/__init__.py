"""Online: the gateway, the candidate and ranking pods, and what runs them."""
