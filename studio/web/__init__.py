"""What stands between the network and the page: who asks, whose it is, how fast."""
