"""From files to the arrays a network takes: images, sounds and texts, as the weights were trained with."""
