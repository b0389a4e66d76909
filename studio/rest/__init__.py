"""The moderated picture API: one handler, served beside the studio's pages and by AWS Lambda."""
