"""ResNets for CIFAR: network, config and names."""
