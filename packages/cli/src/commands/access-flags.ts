// The flags that say where an API of a daemon is, and how it is entered.
import { Option, type Command } from 'commander'

/** Options of a command that talks to an API, beside the API's place. */
export function withAccess(command: Command): Command {
  return command
    .addOption(new Option('--token-file <file>', 'file with the token that the API asks for').env('SHOAL_TOKEN_FILE'))
    .addOption(new Option('--tls-ca <file>', "who signed the API's certificate (PEM)").env('SHOAL_TLS_CA'))
    .addOption(new Option('--tls-cert <file>', 'client certificate to show to the API (PEM)').env('SHOAL_TLS_CERT'))
    .addOption(new Option('--tls-key <file>', 'key of the client certificate (PEM)').env('SHOAL_TLS_KEY'))
}

/** Options of a command that talks to an agent. */
export function withAdmin(command: Command): Command {
  const place = new Option('--admin <url>', "the agent's admin API").env('SHOAL_ADMIN_URL')
  return withAccess(command.addOption(place.default('http://127.0.0.1:7703')))
}
