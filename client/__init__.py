"""The client side: local training and evaluation, private state and the ClientApp."""
