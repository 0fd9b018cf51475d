"""What commands do that is not the engine's: counting and converting."""
