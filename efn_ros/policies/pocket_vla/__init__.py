"""PocketVLA: the small vision-language-action policy that this project makes for itself."""
